"""The settings for those who may not see secrets."""

import msgspec

from swarm.config.settings import Settings
from swarm.views.config_document import ConfigDocument, without_secrets

SECRETS = {
    "ollama": {"env": {"HF_TOKEN": "s3cret"}},
    "notify": {"targets": {"ops": "tgram://s3cret/42"}},
    "engines": {
        "e": {
            "command": ["serve", "--api-key", "s3cret", "--port", "8000", "--hf-token=s3cret"],
            "url": "http://me:s3cret@host:8000/v1?key=s3cret",
            "env": {"KEY": "s3cret"},
        }
    },
    "workers": [{"name": "w", "ollama_url": "http://me:s3cret@host:11434"}],
}


def test_what_may_be_a_secret_is_hidden_and_the_rest_is_told():
    settings = msgspec.convert(SECRETS, Settings)
    told = without_secrets(ConfigDocument(file=None, settings=settings, sources={"ollama.env": "file"}))
    assert "s3cret" not in str(told)
    engine = told["settings"]["engines"]["e"]
    assert engine["command"] == ["serve", "--api-key", "(hidden)", "--port", "8000", "--hf-token=(hidden)"]
    assert engine["url"].endswith("@host:8000/v1?(hidden)")
    assert list(engine["env"]) == ["KEY"]
    msgspec.convert(told, ConfigDocument)  # still what the document is said to be
