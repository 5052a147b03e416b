"""The HTTP API: what is between a socket and the engine.

    socket -> connection.py   bytes in and out, one request at a time; wire.py parses
           -> routing.py      path and method to an endpoint of ROUTES (routes.py), role checked
           -> requests.py     body and parameters, by the models in models/
           -> actions.py      the one door into the controller
           <- answers.py      an object, or lines that last (lines.py)

    server = ControlServer(Starting("alpha"), config.control, ApiLimits())
    await server.start()                        # answers by starting.py
    server.serve(controller, [nbd_source])      # and by routes.py from here on

Everything that is documented is generated from ROUTES and the models: openapi.py for programs,
jsondoc.py for people. metrics.py and scrape.py are /metrics. Nothing here decides anything about
volumes, and nothing below knows that there is an API.
"""
