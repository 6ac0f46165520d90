"""`python -m jaxseg.launch`: several processes of one run on this machine. Imports no jax."""
