"""The report room: one HTML file that shows a run to a person.

`raycondense.report.html.write_report` is its door. Nothing is loaded here.
"""
