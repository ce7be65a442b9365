"""What every part agrees on: errors, `Dynamics`, what a model provides, observables, snapshot times, potentials."""
