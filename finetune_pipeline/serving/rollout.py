"""Gives a server the second model that the present stage of a rollout asks for: behind the champion, or beside it."""

from collections.abc import Callable, Mapping

from finetune_pipeline.production.rollout import SHADOW, Rollout
from finetune_pipeline.serving.loading import AnyServed
from finetune_pipeline.serving.shadow import Shadow
from finetune_pipeline.serving.share import Share


class FollowedRollout:
    """The candidate of a rollout, as its stage changes. Not thread-safe: one thread calls :meth:`renew`.

    Args:
        find: Returns the rollout that goes on, or None.
        serve: Returns a registered version.
        write: Writes a line of the log.
        tell: Informs the operator.

    Attributes:
        shadow: The candidate behind the champion; None in other stages.
        share: The candidate beside it; None in other stages.
    """

    def __init__(
        self,
        find: Callable[[], Rollout | None],
        serve: Callable[[int], AnyServed],
        write: Callable[[Mapping[str, object]], None],
        tell: Callable[[str], None],
    ) -> None:
        self._find, self._serve, self._write, self._tell = find, serve, write, tell
        self._stage: Rollout | None = None
        self.shadow: Shadow | None = None
        self.share: Share | None = None

    def renew(self) -> None:
        """Follow the rollout to its present stage. If the candidate cannot be loaded, it stays as it was: call it again.

        Raises OutsideError and FindingsError if its files are missing or cannot be loaded.
        """
        stage = self._find()
        if stage == self._stage:
            return
        shadow, share = None, None
        if stage and stage.percent == SHADOW:
            shadow = Shadow(self._serve(stage.candidate), self._write, self._tell)
            self._tell(f"rollout: {shadow.name} answers behind the champion")
        elif stage:
            served = self._serve(stage.candidate)
            is_loaded = self.share is not None and self.share.name == served.name
            loaded = self.share.loaded if self.share and is_loaded else None
            share = Share(served, stage.percent, self._tell, loaded)
            self._tell(f"rollout: {share.name} answers {share.percent:g}% of the users or conversations")
        elif self._stage:
            self._tell(f"rollout: that of version {self._stage.candidate} is over")
        old, self.shadow, self.share, self._stage = self.shadow, shadow, share, stage
        if old:
            old.close()
