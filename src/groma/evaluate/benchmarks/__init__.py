"""The benchmarks, a file for each family; BENCHMARKS in groma.evaluate lists them."""
