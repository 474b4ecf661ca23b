"""How a text goes on from a prompt: sampled, or found by beam search, by any network or table."""

from ponder.decoding.beams import Search, beam_search
from ponder.decoding.behind import VectorWindow
from ponder.decoding.draws import Step, collected, draws
from ponder.decoding.language import Language, Text
from ponder.decoding.places import PlaceWindow, TextPlaceWindow, Thinking
from ponder.decoding.windows import OwnWindow, TextWindow, Window

__all__ = ["Language", "OwnWindow", "PlaceWindow", "Search", "Step", "Text", "TextPlaceWindow",
           "TextWindow", "Thinking", "VectorWindow", "Window", "beam_search", "collected", "draws"]
