"""What an evaluation says to people: the reading of report.json, one offline page, and two reports compared.

`schema` owns the form of report.json, `html` the page, `plots` its figures, `wall` the embedded videos,
`compare` two reports side by side, `markup` and `wording` how text and numbers are written. Nothing here
measures anything, and nothing imports torch.
"""
