"""Facts of a successful distillation."""

from kdexp.report.facts import Facts

HEALTHY = Facts(
    difference=-3.0,
    gained=10,
    lost=34,
    chance=0.0004,
    test_images=800,
    teacher_reordered="",
    teacher_diverged=False,
    teacher_test=0.97,
    baseline_test=0.92,
    distilled_test=0.89,
    train_images=900,
    majority_train=0.11,
    teacher_train=1.0,
    baseline_train=0.99,
    distilled_train=0.99,
    confidence=0.98,
    temperature=4.0,
    entropy=0.7,
    entropy_share=0.3,
    softer_temperature=6.0,
    late_progress=0.001,
    objective_before=2.4,
    objective_after=0.1,
    parameter_ratio=9.5,
    gradients_before={"ce": 0.1, "kd": 3.0},
    gradients_after={"ce": 0.01, "kd": 0.02},
)
"""Facts of a student that is worse without a measured reason."""
