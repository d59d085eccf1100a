"""LinVT under accelerate: what trains is saved and brought back with the state of a run."""

from pathlib import Path

import torch
from accelerate import Accelerator

from promises import wrapped
from training_runs import ForOthers, examples


def test_accelerate_saves_and_loads_the_state_of_what_trains(tmp_path: Path):
    family = wrapped("llava_phi")
    accelerator = Accelerator(cpu=True)
    trained = [parameter for parameter in family.model.parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(family.model, torch.optim.AdamW(trained, lr=0.01))
    batch = ForOthers(family.processor, num_frames=32)(examples(family)[:2])
    accelerator.backward(model(**batch).loss)
    optimizer.step()
    accelerator.save_state(str(tmp_path))
    expected = {name: value.clone() for name, value in model.linvt.state_dict().items()}
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(1.0)
    accelerator.load_state(str(tmp_path))
    assert all(torch.equal(model.linvt.state_dict()[name], value) for name, value in expected.items())
