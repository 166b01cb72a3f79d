"""The editing decoder: requests, denoising steps, and the trajectory that they leave."""
