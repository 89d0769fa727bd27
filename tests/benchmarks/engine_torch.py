"""The torch side of the engine benchmark: transformers and TRL as they come.

`make` writes the folder of random weights that all sides load. Trainers of TRL
run one step a turn, with all that their users wait for: collating, tokenising
prompts and decoding texts for the reward model.
"""

import engine_common as common
import numpy as np
import tokenizers
import torch
import transformers

ON_GPU = torch.cuda.is_available()


def make(folder, shape: common.Shape) -> None:
  """Writes policy, reference, reward model and tokenizer."""
  tokenizer = _tokenizer(shape.vocab)
  for seed, name in enumerate(('policy', 'reference', 'reward')):
    torch.manual_seed(seed)
    options = shape.config()
    config = transformers.AutoConfig.for_model(**options)
    if name == 'reward':
      config.num_labels = 1
      build = transformers.AutoModelForSequenceClassification
    else:
      build = transformers.AutoModelForCausalLM
    build.from_config(config).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)


def generate(folder, shape, dtype):
  """Sampling; its first turn also gives greedy tokens."""
  model = _load(folder / 'policy', dtype).eval()
  ids = torch.tensor(common.prompts(shape), device=model.device)

  def run(**options):
    with torch.inference_mode():
      found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=shape.new,
        min_new_tokens=shape.new,
        pad_token_id=1,
        **options,
      )
    return found[:, shape.prompt :].cpu().numpy()

  def step():
    run(do_sample=True, temperature=common.TEMPERATURE, top_k=0)

  def first():
    return dict(tokens=run(do_sample=False).tolist())

  return step, first


def rl(folder, shape, dtype):
  """RLOO with a reference and a reward model; two samples a prompt."""
  import trl

  rows = [{'prompt': common.text(row) + ' '} for row in common.prompts(shape)]
  return trl.RLOOTrainer(
    _load(folder / 'policy', dtype),
    _load(folder / 'reward', dtype, reward=True),
    trl.RLOOConfig(
      **_options(folder, shape),
      num_generations=2,
      max_completion_length=shape.new,
      temperature=common.TEMPERATURE,
      beta=common.BETA,
      generation_kwargs=dict(min_new_tokens=shape.new),
    ),
    _dataset(rows),
    processing_class=_load_tokenizer(folder / 'policy', 'left'),
    reward_processing_classes=_load_tokenizer(folder / 'reward', 'right'),
  )


def reward(folder, shape, dtype):
  """Bradley-Terry on pairs."""
  import trl

  rows = [
    dict(chosen=f'{prompt} {one}', rejected=f'{prompt} {two}')
    for prompt, one, two in _pairs(shape)
  ]
  return trl.RewardTrainer(
    _load(folder / 'reward', dtype, reward=True),
    trl.RewardConfig(**_options(folder, shape), max_length=None),
    train_dataset=_dataset(rows),
    processing_class=_load_tokenizer(folder / 'reward', 'right'),
  )


def dpo(folder, shape, dtype):
  """DPO against another model than it starts from, so that its loss tells."""
  import trl

  rows = [
    dict(prompt=f'{prompt} ', chosen=one, rejected=two)
    for prompt, one, two in _pairs(shape)
  ]
  return trl.DPOTrainer(
    _load(folder / 'policy', dtype),
    _load(folder / 'reference', dtype),
    trl.DPOConfig(**_options(folder, shape), beta=0.1, max_length=None),
    train_dataset=_dataset(rows),
    processing_class=_load_tokenizer(folder / 'policy', 'right'),
  )


class _OneStepATurn(transformers.TrainerCallback):
  """Ends a turn with each step, and waits for the next one."""

  def __init__(self, turns, losses, comparable):
    self.turns, self.losses, self.comparable = turns, losses, comparable

  def on_step_end(self, args, state, control, **kwargs):
    self.turns.report(loss=self.losses[-1], comparable=self.comparable)
    control.should_training_stop = not self.turns.wait()
    return control


def train(trainer, comparable: bool) -> None:
  """Runs a trainer for as many turns as there are."""
  losses = []
  compute_loss = trainer.compute_loss

  def recorded(*args, **kwargs):
    loss = compute_loss(*args, **kwargs)
    value = loss[0] if isinstance(loss, tuple) else loss
    losses.append(value.detach().item())
    return loss

  trainer.compute_loss = recorded
  turns = common.Turns()
  trainer.add_callback(_OneStepATurn(turns, losses, comparable))
  if turns.wait():
    trainer.train()


def _options(folder, shape) -> dict:
  """What all trainers are told; the rest is TRL's own choice."""
  return dict(
    output_dir=str(folder / 'trl'),
    per_device_train_batch_size=shape.batch,
    learning_rate=common.RATE,
    max_grad_norm=common.CLIP,
    lr_scheduler_type='constant',
    max_steps=10**6,
    gradient_checkpointing=False,
    bf16=False,
    use_cpu=not ON_GPU,
    save_strategy='no',
    report_to='none',
    disable_tqdm=True,
    dataloader_pin_memory=False,
    train_sampling_strategy='sequential',  # all steps see the same rows
  )


def _pairs(shape):
  """Texts (prompt, response, response); trainers add the end themselves."""
  parts = [common.prompts(shape)]
  parts += [r[:, :-1] for r in common.responses(shape)]
  return [[common.text(p) for p in row] for row in zip(*parts, strict=True)]


def _dataset(rows):
  import datasets

  return datasets.Dataset.from_list(rows * 64)


def _load(path, dtype, reward=False):
  if reward:
    auto = transformers.AutoModelForSequenceClassification
  else:
    auto = transformers.AutoModelForCausalLM
  model = auto.from_pretrained(path, dtype=getattr(torch, dtype))
  return model.to('cuda' if ON_GPU else 'cpu')


def _load_tokenizer(path, side):
  return transformers.AutoTokenizer.from_pretrained(path, padding_side=side)


def _tokenizer(vocab):
  """One token a word: 'w5' is token 5."""
  words = {'</s>': 0, '<pad>': 1, '<unk>': 2}
  words |= {f'w{i}': i for i in range(3, vocab)}
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token='<unk>')
  )
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend.decoder = tokenizers.decoders.Sequence([])
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    eos_token='</s>',
    pad_token='<pad>',
    unk_token='<unk>',
    clean_up_tokenization_spaces=False,
  )


def main():
  args = common.worker_args(__doc__.split('\n')[0])
  np.random.seed(0)
  torch.set_num_threads(args.threads)
  shape = common.SHAPES[args.shape]
  if args.program == 'make':
    make(args.folder, shape)
  elif args.program == 'generate':
    common.take_turns(lambda: generate(args.folder, shape, args.dtype))
  else:
    program = dict(rl=rl, rloo=rl, reward=reward, dpo=dpo)[args.program]
    trainer = program(args.folder, shape, args.dtype)
    train(trainer, args.program not in ('rl', 'rloo'))


if __name__ == '__main__':
  main()
