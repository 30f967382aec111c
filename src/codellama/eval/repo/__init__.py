"""Models measured on one's own code: holes where the git history added some.

`history` reads what commits added, `holes` cuts, `context` says what a model is shown, `bench`
measures and `page` shows.
"""
