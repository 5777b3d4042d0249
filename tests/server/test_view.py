"""A view shows a strategy some nodes, in one order, and passes all else on."""

import pytest

from server.view import GridView


@pytest.fixture
def grid(devices):
    return devices([5, 3, 9, 1], lambda message: message)


def test_only_nodes_of_the_view_that_are_there_sorted(grid):
    assert GridView(grid, {9: "Ann", 1: "Bo", 7: "away"}).get_node_ids() == [1, 9]
    grid.nodes.remove(9)
    assert GridView(grid, [9, 1]).get_node_ids() == [1]
    assert GridView(grid, []).get_node_ids() == []


def test_the_rest_is_the_grid_s(grid):
    view = GridView(grid, [1])
    assert view.send_and_receive(["m"]) == ["m"]
    assert grid.sent == ["m"]
    assert view.pull_messages(["x"]) == []
    assert view.run == "the run"
