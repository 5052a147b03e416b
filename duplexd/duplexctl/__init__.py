"""The command line: one client, one way for each command. A daemon is a group of one.

    entry.main()                                  # an interrupt ends it quietly, at any moment
      cli.main()                                  # errors become problems and exit codes
        suspend.suspend(...)                      # a command: arguments and options (options.py)
          runner.run(settings, lambda client: client.suspend(...))
          settings.answer(result, texts.suspended_text(result))    # a text, or one JSON object

`settings.py` has what the options say, `views.py` what `status` draws, `known_names.py` what a
shell completes, `interrupts.py` what a signal does to a command that holds writes, `documents.py`
where an installation has the pages that messages name.
"""
