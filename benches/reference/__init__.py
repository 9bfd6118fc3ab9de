"""What `diffusers_reference.py` measures, and how."""
