"""Encoders in the formats of other libraries, one file per format; each is read back and compared."""
