"""An artefact is used where nothing but torch and safetensors is installed."""

import os
import subprocess
import sys

FORBIDDEN = (
    "ray", "ffcv", "torchvision", "sklearn", "matplotlib", "PIL", "pyarrow", "numba", "yaml", "tyro", "rich",
    "tensorboard", "huggingface_hub", "optuna", "numpy",
)  # fmt: skip

CODE = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {FORBIDDEN!r}
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import raycondense

artifact = raycondense.load(sys.argv[1])
bank = artifact.bank(5)
image, label = bank[0]
fresh, _ = next(iter(artifact.stream()))
print(len(bank), tuple(image.shape), label, tuple(fresh.shape), tuple(artifact.sample(["owl"]).shape))

try:
    raycondense.load("hf-hub:user/name")
except raycondense.errors.DependencyError as error:
    print(error)
print([name for name in {(*FORBIDDEN, "torch._dynamo")!r} if name in sys.modules])
"""


def test_load_needs_torch_and_safetensors_alone(artifact):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(artifact.path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    used, dependency, loaded = done.stdout.splitlines()
    assert used == "15 (3, 8, 8) 0 (3, 8, 8) (1, 3, 8, 8)"
    assert dependency == "artefacts on the Hugging Face hub need huggingface_hub: pip install 'raycondense[hub]'"
    assert loaded == "[]"
