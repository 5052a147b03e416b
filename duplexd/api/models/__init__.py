"""Every request, answer, problem and event of the HTTP API, as pydantic models.

Requests refuse unknown fields, so that a misspelt option is not ignored; everything else may gain
fields. The daemon checks requests with them. Its answers are plain objects on the way out, because
a model costs a microsecond a field while gates may be closed: tests check that they fit, and all
that is documented is generated from here.

    >>> SuspendRequest.model_validate_json('{"targets": ["db"], "tag": "nightly"}')
    >>> Status.model_validate(answer).volumes[0].secondary.cut.verdict

Imports nothing of the controller: clients may use this package alone.
"""
