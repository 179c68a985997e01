"""The knobs of the simulated server: their help."""

from swarm.simulator.knobs import Knobs, parser_of_knobs


def test_the_help_lists_every_knob_with_its_words_as_they_are():
    text = " ".join(parser_of_knobs("prog", "description").format_help().split())
    for name in Knobs.__struct_fields__:
        assert f"--{name.replace('_', '-')}" in text
    assert "0.1 is 10 %" in text
