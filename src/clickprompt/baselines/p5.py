"""P5 (Geng et al., 2022, arXiv 2203.13366): an encoder-decoder answers a question after the text.

Letters: B batch, N text tokens, H hidden, V vocabulary, Q tokens of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clickprompt.parameters import PLMParameters
from clickprompt.plm import load_tokenizer, resolve_source
from clickprompt.plm.dropout import use_quick_dropout


class P5(nn.Module):
    """A T5 that says yes or no; p = exp(l_yes) / (exp(l_yes) + exp(l_no)).

    The logit of the click is hence l_yes - l_no, of the decoder's first token.

    NOTE[DIFF]: the paper learns by the cross entropy of the answer over the whole vocabulary, with
    many tasks and templates at once, and names users and items by whole-word embeddings; here one
    task with one template is learnt, by the cross entropy over the two answers, from the text that
    all models here read.

    Args:
        model: a `transformers.T5ForConditionalGeneration`.
        yes: token of the positive answer.
        no: token of the negative one.
    """

    def __init__(self, *, model: Any, yes: int, no: int) -> None:
        super().__init__()
        use_quick_dropout(model)
        self.encoder = model
        self.register_buffer("answers", torch.tensor([yes, no]), persistent=False)
        # T5 has its word embeddings under four names; a file has them once.
        first: dict[int, str] = {}
        tensors = self.named_parameters(remove_duplicate=False)
        self._same = {
            name: kept
            for name, tensor in tensors
            if (kept := first.setdefault(id(tensor), name)) != name
        }
        self.register_state_dict_post_hook(_without_copies)
        self.register_load_state_dict_pre_hook(_with_copies)

    answers: Tensor

    def forward(self, token_ids_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Logits (B,).

        Args:
            token_ids_BN: text, question and the token that ends them (B, N), padded on the right.
            mask_BN: True on text, False on padding; None when nothing is padded.
        """
        model, config = self.encoder, self.encoder.config
        mask_BN = torch.ones_like(token_ids_BN) if mask_BN is None else mask_BN.long()
        hidden_BNH = model.encoder(input_ids=token_ids_BN, attention_mask=mask_BN).last_hidden_state
        start_B1 = token_ids_BN.new_full((len(token_ids_BN), 1), config.decoder_start_token_id)
        answer_B1H = model.decoder(
            input_ids=start_B1,
            encoder_hidden_states=hidden_BNH,
            encoder_attention_mask=mask_BN,
            use_cache=False,
        ).last_hidden_state
        yes_H, no_H = model.lm_head.weight[self.answers]
        scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
        with torch.autocast(token_ids_BN.device.type, enabled=False):
            answer_BH = answer_B1H[:, 0].to(yes_H.dtype) * scale
            logit_B: Tensor = answer_BH @ (yes_H - no_H)
        return logit_B


def _without_copies(model: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in model._same:
        del state[prefix + name]


def _with_copies(model: Any, state: dict[str, Any], prefix: str, *ignored: Any) -> None:
    for name, kept in model._same.items():
        if prefix + kept in state:
            state[prefix + name] = state[prefix + kept]


def load_t5(plm: PLMParameters) -> Any:
    """The T5 of a folder or the hub, in float32.

    Raises:
        ValueError: the weights differ from their digest, cannot be read or are not all there, or
            ``keep_layers`` is out of range.
    """
    from transformers import T5ForConditionalGeneration

    source = resolve_source(plm)
    source.check_weights()
    config = source.model_config()
    if plm.dropout is not None:
        config.dropout_rate = plm.dropout
    if plm.keep_layers is not None:
        layers = min(config.num_layers, config.num_decoder_layers)
        if plm.keep_layers > layers:
            raise ValueError(f"plm.keep_layers must be in 1..{layers}, got {plm.keep_layers}")
        config.num_layers = config.num_decoder_layers = plm.keep_layers
    return source.load_model(T5ForConditionalGeneration, config, "T5")


def random_t5(*, vocabulary_size: int, pad_id: int, end_id: int, size: int, layers: int) -> Any:
    """A small T5 without any pretraining, for the tokens of another model's tokenizer.

    Draws from torch's own generator.
    """
    import transformers

    config: Any = transformers.T5Config
    return transformers.T5ForConditionalGeneration(
        config(
            vocab_size=vocabulary_size,
            d_model=size,
            d_kv=32,
            d_ff=4 * size,
            num_layers=layers,
            num_decoder_layers=layers,
            num_heads=max(1, size // 32),
            pad_token_id=pad_id,
            eos_token_id=end_id,
            decoder_start_token_id=pad_id,
        )
    )


def question_tokens(
    plm: PLMParameters, question: str, answers: Sequence[str]
) -> tuple[list[int], tuple[int, int]]:
    """Token ids of the question, and the token of each answer.

    Raises:
        ValueError: an answer is not one token of its own.
    """
    tokenizer = load_tokenizer(plm)

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    tokens = []
    for answer in answers:
        found = encode(answer)
        if len(found) != 1 or found[0] == tokenizer.unk_token_id or found[0] in tokens:
            raise ValueError(
                "model.p5.answers must be two words of one token each in the vocabulary of "
                f"plm.source, got {answer!r} ({tokenizer.convert_ids_to_tokens(found)})"
            )
        tokens.append(found[0])
    yes, no = tokens
    return encode(question), (yes, no)
