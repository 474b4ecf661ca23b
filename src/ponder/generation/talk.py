"""What has been said so far, as a prompt: cut from the left where it grows too long."""

from __future__ import annotations

from ponder.config.errors import UserError
from ponder.generation.speakers import Continuer, Foreigner, Speaker, Turn


class Talk:
    """Lines of a user in, prompts out; replies of at most `room` tokens are remembered.

    A model with a chat template is given turns. Any other goes on with one text, in which every
    line ends by a line break. A thinker of a task hears one question at a time. What is too long
    is cut to half of what fits, so that it is not cut, and read again, at every turn. `forgot`
    says whether the last prompt was cut.
    """

    def __init__(self, speaker: Speaker, room: int) -> None:
        self.speaker = speaker
        self.most = speaker.limit - min(room, speaker.limit // 2)
        self.turns: list[Turn] = []
        self.tokens: list[int] = []
        self.forgot = False

    def reset(self) -> None:
        self.turns, self.tokens = [], []

    def hear(self, line: str) -> list[int]:
        """The prompt that a line makes. Raises `UserError`; nothing is remembered then."""
        speaker, self.forgot = self.speaker, False
        if isinstance(speaker, Foreigner) and speaker.turns:
            return self._dialogue(speaker, [*self.turns, ("user", line)])
        if not isinstance(speaker, Continuer):
            return speaker.prompt(line)
        gap = "\n" if self.tokens and not speaker.decode(self.tokens[-4:]).endswith("\n") else ""
        tokens = [*self.tokens, *speaker.encode(f"{gap}{line}\n")]
        if len(tokens) > self.most:
            tokens, self.forgot = tokens[-max(1, self.most // 2):], True
        self.tokens = tokens
        return tokens

    def _dialogue(self, speaker: Foreigner, turns: list[Turn]) -> list[int]:
        tokens = speaker.dialogue(turns)
        goal = self.most if len(tokens) <= self.most else self.most // 2
        while len(tokens) > goal and len(turns) > 2:
            turns, self.forgot = turns[2:], True
            tokens = speaker.dialogue(turns)
        if len(tokens) > speaker.limit:
            raise UserError(f"prompt: found {len(tokens)} tokens; legal: at most {speaker.limit}, "
                            "the positions of the model")
        self.turns = turns
        return tokens

    def said(self, reply: list[int]) -> None:
        """Remember a reply to the last line, whole or not."""
        if self.speaker.turns:
            self.turns = [*self.turns, ("assistant", self.speaker.decode(reply))]
        else:
            self.tokens = [*self.tokens, *self.speaker.counted(reply)]
