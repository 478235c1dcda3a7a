from hypothesis import given
from tests.core.strategies import *
import migx
from migx.verify import findings
@given(programs())
def test_random(program):
    assert not findings(program)
    again = migx.parse(str(program))
    assert again == program
