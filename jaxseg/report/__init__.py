"""Reports of runs: one HTML page that needs nothing else. The program is `python -m jaxseg.report`."""
