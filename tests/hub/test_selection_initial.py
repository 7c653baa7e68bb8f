"""The factors that a run began with come along; its checkpoints do not."""

from adaptrix.hub.selection import select_adapter_files

ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


def wanted(*names):
    return set(select_adapter_files(dict.fromkeys(names, 100)).wanted)


def test_initial_factors_beside_or_below_the_adapter():
    below = {f"pissa_init/{name}" for name in ADAPTER}
    assert wanted(*ADAPTER, *below, "pissa_init/README.md", "checkpoint-5/adapter_model.bin") == {
        *ADAPTER,
        *below,
    }
    tuned = {f"tuned/{name}" for name in ADAPTER}
    assert wanted(*tuned, *below) == tuned | below
    assert wanted(*below) == below


def test_containers_that_are_refused_are_looked_at():
    assert wanted("gemma.lora.h5", "notes.txt") == {"gemma.lora.h5"}
    assert wanted("x.nemo") == {"x.nemo"}
