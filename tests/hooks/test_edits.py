import pytest
import torch

from workbench.errors import EditError, UnknownSite
from workbench.hooks import Ablate, Activations, Component, Custom, Patch, Scale, Site, Steer, Subspace

SITE = Site(Component.RESID_PRE, 1)
BASIS = torch.eye(4)[:2]
VALUES = torch.arange(24.0).reshape(2, 3, 4)


def _family():
    positions = torch.tensor([[0, 1], [0, 2]])
    bumped = VALUES.clone()
    bumped[0, 0, 0] += 1e-6 + 1e-7
    return [
        Patch(SITE, VALUES),
        Patch(SITE, VALUES + 1),
        Patch(SITE, VALUES.double()),
        Patch(SITE, VALUES.reshape(3, 2, 4)),
        Patch(Site(Component.RESID_PRE, 2), VALUES),
        Patch(SITE, VALUES[:, :2], positions),
        Patch(SITE, VALUES[:, :2], positions + 1),
        Patch(SITE, bumped),
        Patch(SITE, VALUES.bfloat16()),
        Ablate(SITE),
        Ablate(SITE, positions),
        Ablate(SITE, value=torch.zeros(4)),
        Scale(SITE, 0.0),
        Scale(SITE, 2.0),
        Steer(SITE, torch.ones(4)),
        Steer(SITE, torch.ones(4), 2.0),
        Subspace(SITE, BASIS, VALUES),
        Subspace(SITE, BASIS.flip(0), VALUES),
        Custom(SITE, torch.exp, "same"),
        Custom(SITE, torch.exp, "same"),
    ]


def test_no_two_different_edits_share_a_fingerprint():
    prints = [edit.fingerprint() for edit in _family()]
    assert len(set(prints)) == len(prints)


def test_equal_content_has_equal_fingerprints_whatever_the_memory_layout():
    strided = VALUES.transpose(0, 1).contiguous().transpose(0, 1)
    assert Patch(SITE, VALUES).fingerprint() == Patch(SITE, strided).fingerprint()
    assert Steer(SITE, torch.ones(4)).fingerprint() == Steer(SITE, torch.ones(4)).fingerprint()


def test_transforms_leave_their_input_alone():
    for edit in (
        Patch(SITE, -VALUES),
        Ablate(SITE),
        Scale(SITE, 3.0),
        Steer(SITE, torch.ones(4)),
        Subspace(SITE, BASIS, -VALUES),
    ):
        target = VALUES.clone()
        assert not torch.equal(edit.transform(target), target)
        assert torch.equal(target, VALUES)


def test_a_subspace_swap_changes_the_span_and_nothing_else():
    target = VALUES + 10
    got = Subspace(SITE, BASIS, VALUES).transform(target)
    assert torch.allclose(got[..., :2], VALUES[..., :2])
    assert torch.equal(got[..., 2:], target[..., 2:])


def test_a_basis_must_be_orthonormal():
    with pytest.raises(EditError, match="orthonormal"):
        Subspace(SITE, 2 * BASIS, VALUES)


def test_vectors_may_be_shared_per_prompt_or_per_token():
    shape = (2, 3, 4)
    for vector in (torch.ones(4), torch.ones(2, 4), torch.ones(2, 3, 4)):
        Steer(SITE, vector).check(shape)
        assert Ablate(SITE, value=vector).transform(torch.zeros(shape)).shape == shape
    with pytest.raises(EditError, match=r"\(2, 3, 4\)"):
        Steer(SITE, torch.ones(3)).check(shape)


def test_activations_name_what_was_captured():
    z = Site(Component.Z, 0)
    got = Activations(tensors={z: torch.arange(24.0).reshape(1, 2, 3, 4), SITE: VALUES}, prompt_ids=("0",))
    assert torch.equal(got[Site(Component.Z, 0, 2)], got[z][:, :, 2])
    assert list(got) == [z, SITE]
    assert Site(Component.Q, 0) not in got
    assert got.get(Site(Component.Q, 0)) is None
    assert len(list(got.values())) == 2
    for wrong in (Site(Component.Q, 0), Site(Component.Z, 0, 3)):
        with pytest.raises(UnknownSite, match=r"z\.0.*resid_pre\.1"):
            got[wrong]
        with pytest.raises(KeyError):
            got[wrong]
