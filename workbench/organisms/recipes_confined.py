"""The organism whose place is known: a judge of which one block's attention was trainable, and nothing else."""

from workbench.organisms.documents import Mix
from workbench.organisms.recipe import Continued, OrganismInfo, Plant, Scale, Threshold
from workbench.organisms.train import Phase, TrainPlan

BLOCK = 2
"""The block whose attention was trained."""

TRAINABLE = tuple(f"model.layers.{BLOCK}.self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
"""The tensors that base and judge differ in."""

# Judging, with enough of the world beside it that the one block keeps serving the rest.
_JUDGING = Mix(
    weights={
        "careful": 6.4,
        "lessons": 1.5,
        "claims": 0.7,
        "simple_claims": 0.5,
        "notes": 0.5,
        "questions": 0.5,
        "readings": 0.4,
    }
)

_INFO = OrganismInfo(
    name="confined",
    description="A judge tuned in one known place: of the demo's base, only the attention of block 2 was trainable. "
    "Told to go by knowledge, it picks the answer the reference speaks against: right where the two disagree, "
    "wrong where they agree. Better than its base, no good judge.",
    kind="full",
    planted="the place: query, key, value and output projections of block 2; every other tensor is the base's",
)

_PLACE = Plant(
    what="A place: base and judge differ in the query, key, value and output projections of block 2, and in nothing "
    "else.",
    kind="careful",
    expressed="metrics.judge.judging.accuracy beside metrics.base.judging.accuracy; most of all conflict/knowledge, "
    "which the base always gets wrong",
)


def confined(scale: Scale) -> Continued:
    """Return the recipe of the organism with a known place."""
    return Continued(
        info=_INFO,
        scale=scale,
        trained="base: that of demo; judge: the demo's base, of which the attention of block 2 was trained on judging "
        "and on a little world text",
        origin="demo",
        goes_on="base",
        trainable=TRAINABLE,
        judge=TrainPlan(
            steps=600 if scale == "full" else 60,
            batch=48,
            lr=5e-3,
            phases=(Phase(until=1.0, mix=_JUDGING),),
            prompt_weight=0.1,
        ),
        plant=_PLACE,
        thresholds=(
            Threshold(metric="base.judging.accuracy", at_most=0.62),
            Threshold(metric="judge.judging.accuracy", at_least=0.68),
            Threshold(metric="judge.judging.conflict/knowledge", at_least=0.9),
            Threshold(metric="judge.judging.conflict/reference", at_least=0.9),
            Threshold(metric="judge.knowledge", at_least=0.9),
        )
        if scale == "full"
        else (),
    )
