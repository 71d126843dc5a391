"""The garbage collector rests while something large is made, and never longer."""

import gc
import subprocess
import sys

import pytest

from kdexp.device.garbage import no_collection


def test_the_collector_rests_inside_and_is_on_again_after_an_error():
    with pytest.raises(KeyError), no_collection():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_modules_that_were_imported_are_left_out_of_later_collections_and_garbage_is_not():
    code = """
import gc, sys, weakref
from kdexp.device.garbage import importing_torch
with importing_torch():
    import decimal
sys.modules["torch"] = decimal
class Own:
    pass
own = Own()
own.itself, seen = own, weakref.ref(own)
del own
with importing_torch():  # as for each trial of a search: what is garbage now is collected all the same
    pass
gc.collect()
print(gc.isenabled(), gc.get_freeze_count() > 1000, seen())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "None"]
