"""Train a small teacher on the labels of a data set, and save it as the weights its YAML names."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import Arguments, add_device, find_device
from ..common.errors import UserError
from ..common.output_folder import add_overwrite, check_file

if TYPE_CHECKING:
    from ..losses.teachers.timm_teacher import TimmTeacher

EXAMPLES = (
    "imtok train-teacher                              the teacher of experiment=quickstart_dual, in two CPU minutes",
    "imtok train-teacher --out TEACHER.safetensors --data-root photos    of a folder of class folders",
)


def main(argv: Sequence[str]) -> int:
    parser = Arguments("train-teacher", str(__doc__), examples=EXAMPLES)
    parser.add_argument("--teacher", default="generated", metavar="NAME", help="of configs/teacher (generated)")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="default: the weights its YAML names")
    parser.add_argument("--updates", type=int, default=1000, metavar="N", help="of 64 images each (default: 1000)")
    parser.add_argument("--image-size", type=int, default=64, metavar="N", help="of the data (default: 64)")
    parser.add_argument("--data-root", default=None, metavar="DIR", help="class folders; default: generated images")
    parser.add_argument("--seed", type=int, default=0)
    add_overwrite(parser, what="the file is there already")
    add_device(parser)
    options = parser.parse_args(argv)

    from imtok.common.build import build
    from imtok.configs.compose import compose_config, quoted
    from imtok.losses.teachers.timm_teacher import TimmTeacher

    words = [f"teacher=[{options.teacher}]", f"data.image_size={options.image_size}", f"seed={options.seed}"]
    if options.data_root is not None:
        words += ["data=folder", f"data.root={quoted(options.data_root)}"]
    config = compose_config("train", words)
    node = config["teacher"][options.teacher]
    out = Path(options.out or node["weights"])
    if options.out is not None or node["weights"] not in ("pretrained", "random"):
        check_file(out, key="--out", overwrite=options.overwrite)
    teacher = build(node | {"weights": "random"}, key=f"teacher.{options.teacher}")
    if not isinstance(teacher, TimmTeacher):
        raise UserError(f"--teacher {options.teacher}: a {type(teacher).__name__}; only timm networks are trained here")
    if options.out is None and node["weights"] in ("pretrained", "random"):
        raise UserError(f"--out: configs/teacher/{options.teacher}.yaml names no file; say where the weights should go")
    data = build(config["data"], key="data")
    accuracy, held_out = train(
        teacher, data, updates=options.updates, seed=options.seed, device=find_device(options.device)
    )
    save(teacher, out)
    print(f"{out}: {options.updates:,} updates, {accuracy:.1%} of {held_out:,} held-out images right")
    return 0


def train(
    teacher: "TimmTeacher", data: Any, *, updates: int, seed: int, device: Any, batch_size: int = 64, lr: float = 4e-3
) -> tuple[float, int]:
    """Cross-entropy of a linear layer on the pooled vector. Returns accuracy and count of the validation images."""
    import torch
    import torch.nn.functional as F

    from imtok.common.pixels import to_model_range

    data.batch_size = batch_size
    batches = data.train_loader(num_batches=updates)  # a folder knows its classes once it was listed
    classes = len(data.source.class_names)
    if classes < 2:
        raise UserError("train-teacher: these images have no classes; --data-root takes a folder of class folders")
    torch.manual_seed(seed)
    network: Any = teacher.to(device).network.requires_grad_(True).to(memory_format=torch.channels_last)
    head = torch.nn.Linear(teacher.pooled_dim, classes).to(device)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=lr, weight_decay=0.05)

    def logits(images: torch.Tensor) -> torch.Tensor:
        return head(network.forward_head(network.forward_features(teacher.prepared(images)), pre_logits=True))

    network.train()
    seen = 0.0
    for update, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((update + 1) / 50, max(1 - update / updates, 0.02))
        images = to_model_range(batch["image"].to(device))
        # Flips, shifts and exchanged colour channels leave a class what it is.
        images = images.flip(-1) if torch.rand(()) < 0.5 else images
        shifts = torch.randint(-(images.shape[-1] // 10), images.shape[-1] // 10 + 1, (2,)).tolist()
        images = torch.roll(images, shifts, dims=(2, 3))[:, torch.randperm(3)]
        images = images.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(logits(images), batch["label"].to(device), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += float(loss.detach())
        if (update + 1) % 100 == 0:
            print(f"update {update + 1}, loss {seen / 100:.3f}", flush=True)
            seen = 0.0
    network.eval().requires_grad_(False)
    right = count = 0
    with torch.no_grad():
        for batch in data.val_loader():
            predicted = logits(to_model_range(batch["image"].to(device))).argmax(dim=1).cpu()
            right, count = right + int((predicted == batch["label"]).sum()), count + len(predicted)
    return right / count, count


def save(teacher: "TimmTeacher", file: Path) -> None:
    """Whole or not at all; without the linear layer, which no feature passes."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.part")
    save_file({k: v.cpu().contiguous() for k, v in teacher.network.state_dict().items()}, draft)
    draft.replace(file)
