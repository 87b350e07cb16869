"""The Accelerate engine: ERPO and GRPO on one machine, from a laptop's CPU upward, with verl's key names."""
