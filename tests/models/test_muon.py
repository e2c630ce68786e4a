"""Muon in float32 steps as torch's own does."""

import torch

from models.muon import Muon, orthogonal


def test_singular_values_come_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 40, 90)))
    assert ((values > 0.6) & (values < 1.3)).all()


def test_it_steps_as_torch_s_own_up_to_rounding() -> None:
    shapes = [(40, 40), (40, 160), (160, 40), (40, 40)]
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in shapes]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(4)]
    ours, theirs = ([torch.nn.Parameter(one.clone()) for one in start] for _ in range(2))
    steps = (
        (ours, Muon(ours, lr=0.02, weight_decay=0.01)),
        (
            theirs,
            torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        ),
    )
    for parameters, optimizer in steps:
        for several in gradients:
            for parameter, gradient in zip(parameters, several, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for one, other, begun in zip(ours, theirs, start, strict=True):
        moved = (other - begun).norm()
        assert (one - other).norm() < 0.02 * moved, "bfloat16 rounds by this much"


def test_a_state_goes_on_in_either() -> None:
    parameter = torch.nn.Parameter(torch.eye(4))
    parameter.grad = torch.ones(4, 4)
    optimizer = Muon([parameter])
    optimizer.step()
    assert set(optimizer.state[parameter]) == {"momentum_buffer"}
    other = torch.optim.Muon([parameter])
    other.load_state_dict(
        {
            "state": optimizer.state_dict()["state"],
            "param_groups": other.state_dict()["param_groups"],
        }
    )
    other.step()  # type: ignore[no-untyped-call]  # torch has no types here


def test_what_has_no_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.eye(4))
    Muon([parameter]).step()
    torch.testing.assert_close(parameter.detach(), torch.eye(4))
