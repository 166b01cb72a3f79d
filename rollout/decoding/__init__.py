"""The editing decoder: requests into slots, denoising steps, and the trajectory that they leave."""
