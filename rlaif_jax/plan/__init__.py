"""Plans a run before it is paid for: `python -m rlaif_jax.plan`.

The stages' own programs are compiled ahead of time for a slice of TPUs or a
node of GPUs that is not there, on shapes alone, and what the compiler says of
memory and collectives is put in a table.

  chips      what a topology's name stands for: devices to compile for, limits
  shapes     from a model path to a model without weights
  context    abstract arrays, sharded as a stage shards its own
  training   programs that learn: SFT, reward model, RL update
  inference  programs that do not: label scoring, prefill, decode, rewards
  programs   all of a config's
  work       arithmetic and memory traffic of a program, by formula
  compiling  compiles one program, and keeps what the compiler says
  hlo        collectives of a compiled program
  search     meshes that might do where the config's does not
  report     the table
"""
