from conftest import ROOT
from rewards.mixture import RewardMixture, Sample
from rewards.reward import RewardTerm


def test_the_example_reward_runs_in_its_own_process():
    term = RewardTerm(fn=f"{ROOT}/examples/short_answer.py:short_answer")
    completions = [r"\boxed{12}", "12", "the answer is 12", "13"]
    samples = [Sample(prompt="5+7=", completion=text, columns={"ground_truth": "12"}) for text in completions]
    with RewardMixture([term]) as mixture:
        assert [one.total for one in mixture.score(samples)] == [1.0, 0.5, 0.5, 0.0]


def test_the_readme_holds_the_two_set_up_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert "pip install -e . && redraft train recipes/quickstart.yaml" in lines
    assert "pip install -e '.[dev]' && pytest" in lines
