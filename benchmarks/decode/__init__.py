"""How fast the decoder is, against plain decoding and against memory bandwidth."""
