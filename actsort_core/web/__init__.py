"""The page: label in a browser. `actsort label`, or `session.show()` in a notebook.

`app` answers requests; `desk` is what may change the session; `scene` and `payload` are what is shown; `guard` says who may; `serve` runs
it; `static/` is the page itself (HTML, ES modules, no build step). docs/page-api.md says what page and server say to each other.
"""
