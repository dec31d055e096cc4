"""`raycondense plan`: what a run will take, from steps on made-up images on the device at hand."""
