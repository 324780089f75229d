"""The sections of a report: each module gives the data of the template of its name."""
