"""GuideRec: guided-diffusion sequential recommendation."""
