"""Both backends against each other, against TransformerLens and against plain Hugging Face, on nine architectures."""

import torch
from torch.nn import functional as F

from tests.hooks.conftest import TOLERANCE, Lab
from workbench.hooks import Ablate, Component, Patch, Scale, Site, Steer, Subspace

C = Component
LAST = torch.tensor([[-3, -2, -1]] * 3)


def _edits(lab: Lab) -> list:
    vector = 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(2)).to(lab.batch.device)
    basis = torch.linalg.qr(torch.randn(64, 3, generator=torch.Generator().manual_seed(3)))[0].T.to(lab.batch.device)
    edits = [
        Steer(Site(C.RESID_PRE, 1), vector, 2.0),
        Ablate(Site(C.Z, 1, 1)),
        Scale(Site(C.K, 1, 0), 0.5),
        Scale(Site(C.V, 2), 1.5, LAST),
        Patch(Site(C.MLP_OUT, 2), lab.donor[Site(C.MLP_OUT, 2)]),
        Patch(Site(C.NEURONS, 1), lab.donor[Site(C.NEURONS, 1)]),
        Subspace(Site(C.RESID_POST, 0), basis, lab.donor[Site(C.RESID_POST, 0)]),
    ]
    if not lab.anatomy.parallel:
        edits.append(Patch(Site(C.RESID_MID, 1), lab.donor[Site(C.RESID_MID, 1)][:, -3:], LAST))
    return edits


def test_logits_and_stream_are_those_of_plain_hugging_face(lab):
    for backend in (lab.hooks, lab.nnsight):
        run = backend.run(lab.batch, capture=lab.anatomy.sites(), logits="all")
        assert lab.gap(run.logits, lab.logits) < TOLERANCE
        for layer in range(lab.anatomy.n_layers):
            assert lab.gap(run.activations[Site(C.RESID_PRE, layer)], lab.hidden[layer]) < TOLERANCE
        for layer in range(lab.anatomy.n_layers - 1):
            assert lab.gap(run.activations[Site(C.RESID_POST, layer)], lab.hidden[layer + 1]) < TOLERANCE


def test_the_stream_is_the_sum_of_its_parts(lab):
    got = lab.hooks.run(lab.batch, capture=lab.anatomy.sites()).activations
    for layer in range(lab.anatomy.n_layers):
        whole = sum(got[Site(component, layer)] for component in (C.RESID_PRE, C.ATTN_OUT, C.MLP_OUT))
        assert lab.gap(whole, got[Site(C.RESID_POST, layer)]) < TOLERANCE
        if not lab.anatomy.parallel:
            half = got[Site(C.RESID_PRE, layer)] + got[Site(C.ATTN_OUT, layer)]
            assert lab.gap(half, got[Site(C.RESID_MID, layer)]) < TOLERANCE


def test_every_capture_agrees(lab):
    sites = lab.anatomy.sites()
    assert len(sites) == lab.anatomy.n_layers * (9 if lab.anatomy.parallel else 10)
    ours = lab.hooks.run(lab.batch, capture=sites).activations
    for backend in (lab.nnsight, lab.lens):
        theirs = backend.run(lab.batch, capture=sites).activations
        assert max(lab.gap(theirs[site], ours[site]) for site in sites) < TOLERANCE


def test_every_edit_agrees_and_takes_hold(lab):
    edits = _edits(lab)
    ours = lab.hooks.run(lab.batch, edits=edits, capture=lab.anatomy.sites(), logits="all")
    assert lab.gap(ours.logits, lab.logits) > 100 * TOLERANCE
    for backend in (lab.nnsight, lab.lens):
        theirs = backend.run(lab.batch, edits=edits, capture=lab.anatomy.sites(), logits="all")
        assert lab.gap(theirs.logits, ours.logits) < TOLERANCE
        gaps = [lab.gap(theirs.activations[site], ours.activations[site]) for site in lab.anatomy.sites()]
        assert max(gaps) < TOLERANCE


def test_a_patch_is_what_a_hand_written_hook_does(lab):
    donor = lab.donor[Site(C.RESID_PRE, 1)]
    block = lab.model.get_submodule(lab.anatomy.blocks_path)[1]

    def swap(_module, args, kwargs):
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        stream[:, -2:] = donor[:, -2:]
        return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": stream})

    handle = block.register_forward_pre_hook(swap, with_kwargs=True)
    with torch.no_grad():
        by_hand = lab.model(**lab.batch.forward_kwargs(), use_cache=False).logits
    handle.remove()
    edit = Patch(Site(C.RESID_PRE, 1), donor[:, -2:], LAST[:, -2:])
    for backend in (lab.hooks, lab.nnsight):
        assert lab.gap(backend.run(lab.batch, edits=[edit], logits="all").logits, by_hand) == 0


def test_writing_resid_mid_moves_the_residual_branch_too(lab):
    if lab.anatomy.parallel:
        return
    layer, site = 1, Site(C.RESID_MID, 1)
    mid = lab.donor[site]
    block = lab.model.get_submodule(lab.anatomy.blocks_path)[layer]
    names = dict(block.named_children())
    if lab.architecture == "gemma2":
        mlp = block.post_feedforward_layernorm(block.mlp(block.pre_feedforward_layernorm(mid)))
    else:
        mlp = block.mlp(names.get("post_attention_layernorm", names.get("ln_2"))(mid))
    by_hand = Patch(Site(C.RESID_POST, layer), (mid + mlp).detach())
    expected = lab.hooks.run(lab.batch, edits=[by_hand], logits="all").logits
    for backend in (lab.hooks, lab.nnsight, lab.lens):
        got = backend.run(lab.batch, edits=[Patch(site, mid)], logits="all").logits
        assert lab.gap(got, expected) < TOLERANCE


def test_self_patch_is_the_identity_bit_for_bit(lab):
    sites = lab.anatomy.sites()
    for backend in (lab.hooks, lab.nnsight, lab.lens):
        own = backend.run(lab.batch, capture=sites, logits="all")
        patches = [Patch(site, own.activations[site]) for site in sites]
        again = backend.run(lab.batch, edits=patches, logits="all", check_edits=False)
        assert torch.equal(again.logits, own.logits)


def test_gradients_agree_with_plain_autograd(lab):
    block = lab.model.get_submodule(lab.anatomy.blocks_path)[0]
    kept = []

    def keep(_module, _args, output):
        output = output if torch.is_tensor(output) else output[0]
        output.retain_grad()
        kept.append(output)

    handle = block.register_forward_hook(keep)
    lab.model(**lab.batch.forward_kwargs(), use_cache=False).logits[:, -1, 5].sum().backward()
    handle.remove()
    lab.model.zero_grad(set_to_none=True)
    sites = lab.anatomy.sites()
    found = []
    for backend in (lab.hooks, lab.nnsight, lab.lens):
        run = backend.run(lab.batch, capture=sites, grad=True)
        grads = torch.autograd.grad(run.logits[:, 5].sum(), [run.activations[site] for site in sites])
        found.append(dict(zip(sites, grads, strict=True)))
    ours, nnsight, lens = found
    assert lab.gap(ours[Site(C.RESID_POST, 0)], kept[0].grad) < TOLERANCE
    assert lab.gap(nnsight[Site(C.RESID_POST, 0)], kept[0].grad) < TOLERANCE
    for site in sites:
        assert lab.gap(nnsight[site], ours[site]) < TOLERANCE
        # The bridge runs another attention kernel: its rounding grows with the size of the gradient.
        assert lab.gap(lens[site], ours[site]) < TOLERANCE * max(1.0, float(ours[site].abs().max()))


def test_gradients_exist_when_every_parameter_is_frozen(lab):
    sites = [Site(C.RESID_PRE, 0), Site(C.Z, 1), Site(C.Q, 1, 2), Site(C.MLP_OUT, 2)]
    lab.model.requires_grad_(False)
    try:
        run = lab.hooks.run(lab.batch, capture=sites, positions=LAST, grad=True)
        grads = torch.autograd.grad(run.logits[:, 5].sum(), [run.activations[site] for site in sites])
    finally:
        lab.model.requires_grad_(True)
    free = lab.hooks.run(lab.batch, capture=sites, grad=True)
    whole = torch.autograd.grad(free.logits[:, 5].sum(), [free.activations[site] for site in sites])
    for grad, full in zip(grads, whole, strict=True):
        assert float(grad.abs().max()) > 0
        assert float((grad - full[:, -3:]).abs().max()) < TOLERANCE


def test_left_padded_rows_equal_single_prompts(lab):
    together = lab.hooks.run(lab.batch, capture=lab.anatomy.sites(), logits="all")
    for row in range(len(lab.batch)):
        single = lab.batch.row(row)
        alone = lab.hooks.run(single, capture=lab.anatomy.sites(), logits="all")
        width = single.ids.shape[1]
        assert float((together.logits[row, -width:] - alone.logits[0]).abs().max()) < TOLERANCE
        for site in lab.anatomy.sites():
            inside = together.activations[site][row, -width:]
            assert float((inside - alone.activations[site][0]).abs().max()) < TOLERANCE


def test_suffix_equals_the_whole_forward(lab):
    sites = [Site(C.RESID_PRE, layer) for layer in range(lab.anatomy.n_layers)]
    full = lab.hooks.run(lab.batch, capture=sites, logits="all")
    changed = Steer(Site(C.RESID_PRE, 2), torch.ones(64, device=lab.batch.device))
    steered = lab.hooks.run(lab.batch, edits=[changed], logits="all").logits
    for backend in (lab.hooks, lab.nnsight, lab.lens):
        for layer in range(lab.anatomy.n_layers):
            resid = full.activations[sites[layer]]
            assert lab.gap(backend.suffix(layer, resid, lab.batch, logits="all").logits, full.logits) < TOLERANCE
            again = backend.suffix(layer, resid, lab.batch, edits=[changed], logits="all").logits
            assert lab.gap(again, steered) < TOLERANCE


def test_knocking_out_a_head_equals_zeroing_its_output_columns(lab):
    site = Site(C.Z, 1, 2)
    port = lab.anatomy.port(site)
    projection = lab.model.get_submodule(port.path)
    columns = slice(2 * lab.anatomy.d_head, 3 * lab.anatomy.d_head)
    original = projection.weight.detach().clone()
    with torch.no_grad():
        # GPT-2's Conv1D stores its weight as [in, out].
        (projection.weight if lab.architecture == "gpt2" else projection.weight.T)[columns] = 0
        by_hand = lab.model(**lab.batch.forward_kwargs(), use_cache=False).logits
        projection.weight.copy_(original)
    for backend in (lab.hooks, lab.nnsight):
        got = backend.run(lab.batch, edits=[Ablate(site)], logits="all").logits
        assert lab.gap(got, by_hand) < TOLERANCE
    assert lab.gap(by_hand, lab.logits) > 100 * TOLERANCE


def test_q_k_v_are_the_projections_of_the_normed_stream(lab):
    """Computed here from the weights, per architecture; the library has no such table."""
    layer = 1
    sites = [Site(component, layer) for component in (C.Q, C.K, C.V)]
    got = lab.hooks.run(lab.batch, capture=[Site(C.RESID_PRE, layer), *sites]).activations
    block = lab.model.get_submodule(lab.anatomy.blocks_path)[layer]
    heads, d_head = lab.anatomy.n_heads, lab.anatomy.d_head
    stream = got[Site(C.RESID_PRE, layer)]
    with torch.no_grad():
        if lab.architecture == "gpt2":
            joint = block.ln_1(stream) @ block.attn.c_attn.weight + block.attn.c_attn.bias
            parts = [part.unflatten(-1, (heads, d_head)) for part in joint.split(64, dim=-1)]
        elif lab.architecture == "neox":
            linear = block.attention.query_key_value
            joint = F.linear(block.input_layernorm(stream), linear.weight, linear.bias).unflatten(
                -1, (heads, 3 * d_head)
            )
            parts = list(joint.split(d_head, dim=-1))
        elif lab.architecture == "phi3":
            joint = F.linear(block.input_layernorm(stream), block.self_attn.qkv_proj.weight)
            widths = [heads * d_head, 2 * d_head, 2 * d_head]
            parts = [part.unflatten(-1, (-1, d_head)) for part in joint.split(widths, dim=-1)]
        else:
            normed, attention = block.input_layernorm(stream), block.self_attn
            linears = attention.q_proj, attention.k_proj, attention.v_proj
            parts = [F.linear(normed, linear.weight, linear.bias).unflatten(-1, (-1, d_head)) for linear in linears]
    for site, part in zip(sites, parts, strict=True):
        assert got[site].shape == part.shape
        assert lab.gap(got[site], part) < TOLERANCE


def test_generation_agrees_token_for_token(lab):
    steer, patch = _edits(lab)[0], _edits(lab)[4]
    plain = lab.model.generate(
        input_ids=lab.batch.ids, attention_mask=lab.batch.mask.long(), max_new_tokens=4, do_sample=False
    )
    for edits in ([], [steer], [patch]):
        ours = lab.hooks.generate(lab.batch, edits=edits, max_new_tokens=4)
        assert torch.equal(lab.nnsight.generate(lab.batch, edits=edits, max_new_tokens=4), ours)
        assert torch.equal(lab.lens.generate(lab.batch, edits=edits, max_new_tokens=4), ours)
        assert edits or torch.equal(ours, plain)
