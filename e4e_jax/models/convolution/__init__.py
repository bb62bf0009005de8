"""The forms of convolution: `ops` picks one for each shape and device."""
