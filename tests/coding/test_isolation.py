"""Isolating the lines that make operations fail: simulated with a service that fails an operation with a bad line."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.coding.isolation import MAX_EXTRA_OPERATIONS, Isolation, Kind, Piece, split_lines


class Simulation:
    """A run over lines, which are numbers.

    :param lines: one list for each part
    :param bad: lines that fail their operation
    :param mute: lines that are never answered
    :param has_control: whether the model has coded another text before
    :param failures: numbers of the operations of this run that fail whatever their lines are; None: all of them
    """

    def __init__(self, lines, bad=frozenset(), mute=frozenset(), has_control=True, failures=frozenset()):
        self.bad, self.mute, self.has_control, self.failures = set(bad), set(mute), has_control, failures
        self.pieces, self.lines = [], []
        self.operations = self.texts_sent = self.rounds = 0
        self.coded, self.sent_twice = set(), set()
        self.rounds_lines = []
        for number, part in enumerate(lines):
            piece = self._send(Piece(len(self.pieces), Kind.PART, None, 0, len(part), 0, number), part)
            if piece.has_failed or piece.unanswered:
                self.pieces.append(piece)
                self.lines.append(part)

    def _send(self, piece, lines):
        has_failed = (
            self.failures is None or self.operations in self.failures or any(line in lines for line in self.bad)
        )
        self.operations, self.texts_sent = self.operations + 1, self.texts_sent + piece.records
        if has_failed:
            return replace(piece, state="failed")
        self.coded |= set(lines) - self.mute
        return replace(piece, state="complete", unanswered=sum(line in lines for line in self.mute))

    def _take_lines(self, piece):
        if piece.kind is Kind.CONTROL:
            return []
        if piece.parent is not None:
            return self.lines[piece.parent][piece.first : piece.first + piece.records]
        lines = []
        for source in Isolation(self.pieces).ungathered:
            lines += [line for line in self.lines[source.number] if line in self.mute]
        return lines

    def run(self):
        while round_ := Isolation(self.pieces).next_round(100, has_control=self.has_control):
            line_lists = [self._take_lines(piece) for piece in round_]
            together = [line for lines in line_lists for line in lines]
            assert len(together) == len(set(together)), "no line is in two operations at once"
            assert not self.coded & set(together), "a line with a result is not sent again"
            if any(piece.kind is Kind.UNANSWERED for piece in round_):
                self.pieces = [replace(piece, is_gathered=piece.unanswered > 0) for piece in self.pieces]
            for piece, lines in zip(round_, line_lists, strict=True):
                assert piece.number == len(self.pieces)
                assert piece.kind is Kind.CONTROL or piece.records == len(lines) > 0
                self.pieces.append(self._send(piece, lines))
                self.lines.append(lines)
            self.rounds += 1
        return self

    @property
    def extra_operations(self):
        return sum(piece.is_extra for piece in self.pieces)

    @property
    def refused(self):
        return {self.lines[piece.number][0] for piece in Isolation(self.pieces).refused}

    @property
    def silent(self):
        silent = Isolation(self.pieces).silent
        return {line for piece in silent for line in self.lines[piece.number] if line in self.mute}

    @property
    def unresolved(self):
        """The lines without a result, which the next run sends."""
        everything = {line for lines in self.lines for line in lines}
        return sorted(everything - self.coded - self.refused - self.silent)


def repeat_runs(lines, bad, mute=frozenset(), max_runs=100):
    """Run until no line is left or a run makes no progress; return the runs, without the texts that came back."""
    runs = []
    while lines and len(runs) < max_runs:
        run = Simulation([lines], bad, mute, has_control=True).run()
        runs.append(run)
        assert run.extra_operations <= MAX_EXTRA_OPERATIONS
        assert run.refused <= set(bad), "only a bad line is refused"
        assert run.silent <= set(mute), "only a line without an answer is silent"
        assert len(run.unresolved) < len(lines), "every run makes progress"
        lines = run.unresolved
    return runs


@pytest.mark.parametrize("position", [0, 1, 250_000, 499_998, 499_999])
@pytest.mark.parametrize("has_control", [True, False])
def test_one_bad_line_among_500_000_is_isolated_in_one_run_and_all_others_are_coded(position, has_control):
    run = Simulation([range(500_000)], {position}, has_control=has_control).run()
    assert (run.refused, run.unresolved) == ({position}, [])
    assert len(run.coded) == 499_999
    assert run.extra_operations <= 56
    assert run.texts_sent < 3.2 * 500_000, "with the operation of the part: three times its texts and a little"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_one_bad_line_is_isolated_in_one_run_whatever_the_size(data):
    size = data.draw(st.integers(2, 3000))
    bad = data.draw(st.integers(0, size - 1))
    run = Simulation([range(size)], {bad}, has_control=data.draw(st.booleans())).run()
    assert (run.refused, run.unresolved, len(run.coded)) == ({bad}, [], size - 1)
    assert run.extra_operations <= MAX_EXTRA_OPERATIONS


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_repeated_runs_isolate_exactly_the_bad_lines(data):
    size = data.draw(st.integers(1, 2000))
    lines = st.sets(st.integers(0, size - 1), max_size=12)
    bad = data.draw(lines)
    mute = data.draw(lines) - bad
    runs = repeat_runs(list(range(size)), bad, mute)
    assert set().union(*(run.coded for run in runs)) == set(range(size)) - bad - mute
    assert set().union(*(run.refused for run in runs)) == bad
    assert set().union(*(run.silent for run in runs)) == mute


def test_two_bad_lines_leave_few_texts_to_the_next_run():
    runs = repeat_runs(list(range(500_000)), {1_000, 400_000})
    assert len(runs) == 2
    assert len(runs[0].unresolved) < 1_000


def test_nine_bad_lines_are_isolated_within_nine_runs_and_most_texts_are_coded_in_the_first():
    runs = repeat_runs(list(range(500_000)), set(range(27_777, 500_000, 55_555)))
    assert len(runs) <= 9
    assert len(runs[0].coded) > 0.3 * 500_000


@pytest.mark.parametrize("count", [100, 300])
def test_hundreds_of_bad_lines_never_stop_the_progress(count):
    lines, bad = list(range(50_000)), set(range(7, 50_000, 50_000 // count))
    for _ in range(3):
        run = Simulation([lines], bad).run()
        assert run.extra_operations <= MAX_EXTRA_OPERATIONS
        assert run.refused <= bad
        assert run.coded
        lines = run.unresolved


def test_a_part_that_fails_once_is_repeated_as_a_whole_and_nothing_else_is_sent():
    run = Simulation([range(1000)], failures={0}).run()
    assert [piece.kind for piece in run.pieces] == [Kind.PART, Kind.AGAIN]
    assert (run.operations, run.unresolved) == (2, [])


def test_a_piece_that_fails_once_is_coded_by_its_own_pieces():
    run = Simulation([range(900)], failures={0, 1, 5}).run()
    assert (run.refused, run.unresolved) == (set(), [])


def test_a_line_that_fails_once_alone_is_not_refused():
    run = Simulation([range(9)], failures={0, 1, 5}).run()
    assert (run.refused, run.unresolved, len(run.coded)) == (set(), [], 9)


@pytest.mark.parametrize("sizes", [[500_000], [1], [3], [500_000] * 40])
def test_a_service_that_fails_everything_is_noticed_and_no_line_is_refused(sizes):
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    parts = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    run = Simulation(parts, failures=None).run()
    isolation = Isolation(run.pieces)
    assert (isolation.refused, isolation.is_service_failing) == ([], True)
    assert run.extra_operations <= len(sizes) + 10
    assert run.texts_sent <= 3 * sum(sizes) + 1


@pytest.mark.parametrize("size", [1, 3, 500_000])
def test_a_service_that_has_coded_nothing_before_and_fails_everything_refuses_no_line(size):
    run = Simulation([range(size)], has_control=False, failures=None).run()
    assert (run.refused, run.extra_operations <= MAX_EXTRA_OPERATIONS) == (set(), True)
    assert run.texts_sent < 3.2 * size + 10


@pytest.mark.parametrize("size", [1, 2, 9, 10])
def test_lines_that_are_all_bad_are_refused_if_the_service_codes_another_text(size):
    run = Simulation([range(size)], bad=set(range(size))).run()
    assert (run.refused, run.unresolved) == (set(range(size)), [])


def test_a_line_whose_operation_timed_out_is_not_refused():
    part = Piece(0, Kind.PART, None, 0, 1, 0, 0, state="failed")
    again = Piece(1, Kind.AGAIN, 0, 0, 1, 1, 1, state="timed_out")
    control = Piece(2, Kind.CONTROL, None, 0, 1, 2, 2, state="complete")
    isolation = Isolation([part, again, control])
    assert (isolation.refused, isolation.unexplained) == ([], [again])


def test_texts_without_an_answer_of_all_parts_are_sent_once_more_together():
    run = Simulation([range(100), range(100, 200), range(200, 300)], mute={5, 105, 106}).run()
    assert [(piece.kind, piece.records) for piece in run.pieces if piece.is_extra] == [(Kind.UNANSWERED, 3)]
    assert (run.silent, run.unresolved) == ({5, 105, 106}, [])


def test_texts_without_an_answer_wait_until_the_bad_lines_are_isolated():
    run = Simulation([range(100), range(100, 200)], bad={150}, mute={5, 160}).run()
    assert [piece.kind for piece in run.pieces].count(Kind.UNANSWERED) == 1
    assert (run.silent, run.refused, run.unresolved) == ({5, 160}, {150}, [])


def test_an_operation_whose_end_is_not_known_is_never_given_a_successor():
    part = Piece(0, Kind.PART, None, 0, 10, 0, 0, state="failed")
    again = Piece(1, Kind.AGAIN, 0, 0, 10, 1, 1, state="deadline", problem="it did not end")
    assert Isolation([part, again]).next_round(2, has_control=True) == []


@given(st.integers(2, 100_000), st.integers(2, 9))
def test_the_pieces_of_a_split_are_all_lines_in_order_and_equally_large(records, count):
    count = min(records, count)
    spans = split_lines(records, count)
    assert [first for first, _ in spans] == [sum(size for _, size in spans[:index]) for index in range(count)]
    sizes = {size for _, size in spans}
    assert (sum(size for _, size in spans), max(sizes) - min(sizes) <= 1, min(sizes) > 0) == (records, True, True)


# ---- the pieces of one round, exactly


PART = Piece(0, Kind.PART, None, 0, 100, 0, 7, state="failed")
AGAIN = Piece(1, Kind.AGAIN, 0, 0, 100, 1, 8, state="failed")


def make_round(pieces, part=9, **options):
    """Return the next round as (number, kind, parent, first, records, round, part)."""
    round_ = Isolation(pieces).next_round(part, **{"has_control": False, **options})
    return [(each.number, each.kind, each.parent, each.first, each.records, each.round, each.part) for each in round_]


def make_splits(states, parent=1, first_number=2, records=10, round=2):
    return [
        Piece(first_number + index, Kind.SPLIT, parent, index * records, records, round, 0, state=state)
        for index, state in enumerate(states)
    ]


def test_the_pieces_of_a_round_have_numbers_of_their_own_in_the_run_and_in_the_tables():
    other = Piece(1, Kind.PART, None, 0, 5, 0, 8, state="failed")
    assert make_round([PART, other]) == [
        (2, Kind.AGAIN, 0, 0, 100, 1, 9),
        (3, Kind.AGAIN, 1, 0, 5, 1, 10),
    ]
    complete = Piece(1, Kind.SPLIT, None, 0, 1, 1, 0, state="complete")
    assert make_round([PART, complete, Piece(2, Kind.AGAIN, 0, 0, 20, 1, 0, state="failed")], part=40) == [
        (3 + index, Kind.SPLIT, 2, first, count, 2, 40 + index)
        for index, (first, count) in enumerate(split_lines(20, 9))
    ]


def test_a_piece_with_fewer_lines_than_pieces_is_split_into_its_lines():
    complete = Piece(1, Kind.SPLIT, None, 0, 1, 1, 0, state="complete")
    again = Piece(2, Kind.AGAIN, 0, 0, 3, 1, 0, state="failed")
    assert [each[3:5] for each in make_round([replace(PART, records=3), complete, again])] == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("extra", "gathers", "count"), [(51, False, 8), (51, True, 9), (56, False, 3), (58, False, 0)]
)
def test_a_split_leaves_an_operation_for_the_texts_without_an_answer_until_they_are_sent(extra, gathers, count):
    last = Piece(1, Kind.AGAIN, 0, 0, 100, 5, 0, state="failed")
    kind = Kind.UNANSWERED if gathers else Kind.SPLIT
    others = [Piece(2 + index, kind, None, 0, 1, 5, 0, state="complete") for index in range(extra - 1)]
    pieces = [PART, last, *others]
    assert Isolation(pieces).remaining_operations == MAX_EXTRA_OPERATIONS - extra
    assert len(make_round(pieces)) == count


def test_parts_are_repeated_only_as_far_as_operations_remain():
    parts = [replace(PART, number=index) for index in range(MAX_EXTRA_OPERATIONS + 5)]
    assert len(make_round(parts)) == MAX_EXTRA_OPERATIONS - 1
    used = [Piece(len(parts) + index, Kind.UNANSWERED, None, 0, 1, 1, 0, state="complete") for index in range(58)]
    assert len(make_round([*parts, *used])) == 2


def test_after_a_round_without_a_result_the_smallest_piece_is_split_and_no_other():
    pieces = [PART, AGAIN, *make_splits(["failed"] * 3)]
    pieces[3] = replace(pieces[3], records=6)
    assert {each[2] for each in make_round(pieces)} == {3}


def test_the_piece_from_which_most_results_are_expected_is_split_first():
    # one level further down, half of the pieces were complete: 90 lines there promise more than 80 at a new level
    pieces = [PART, AGAIN, *make_splits(["failed", "complete"], records=80)]
    pieces += make_splits(["failed", "complete"], parent=2, first_number=4, records=20, round=3)
    pieces += make_splits(["failed"], parent=1, first_number=6, records=90, round=3)
    parents = [each[2] for each in make_round(pieces)]
    assert parents == [6] * 9 + [4] * 9  # 90 lines of which half are expected, before 20 of which all are
    pieces[4] = replace(pieces[4], records=44)
    assert make_round(pieces)[0][2] == 6
    pieces[4] = replace(pieces[4], records=46)
    assert make_round(pieces)[0][2] == 4


def test_a_control_is_sent_when_it_is_needed_and_not_after_it_has_worked():
    complete = [replace(PART, state="complete", unanswered=2)]
    assert [each[1:] for each in make_round(complete, has_control=True, needs_control=True)] == [
        (Kind.CONTROL, None, 0, 1, 1, 9)
    ]
    control = Piece(1, Kind.CONTROL, None, 0, 1, 1, 9, state="complete")
    assert [each[1] for each in make_round([*complete, control], has_control=True, needs_control=True)] == [
        Kind.UNANSWERED
    ]
    assert make_round([*complete, replace(control, state="failed")], has_control=True) == []
    assert [each[1] for each in make_round(complete, has_control=False, needs_control=True)] == [Kind.UNANSWERED]
