import pytest

from medvision.errors import MedvisionError
from medvision.task_definition import TaskDefinition, define_task, task_of


def test_an_unknown_task_is_named_in_one_line() -> None:
    with pytest.raises(MedvisionError) as error:
        task_of("segmentatoin")
    assert str(error.value) == "unknown task 'segmentatoin' (task); did you mean segmentation?"


def test_a_task_cannot_take_the_name_of_another() -> None:
    other = TaskDefinition(kind="segmentation", evaluation="x:Evaluation", scores="x:SCORES")
    with pytest.raises(MedvisionError, match="the task segmentation is already defined"):
        define_task(other)


def test_a_part_that_cannot_be_imported_is_named() -> None:
    task = TaskDefinition(kind="x", evaluation="no_such:E", scores="m:SCORES")
    with pytest.raises(MedvisionError, match=r"cannot import no_such:E.*evaluation of the task x"):
        task.load("evaluation")
    with pytest.raises(MedvisionError, match="the task x defines no result"):
        task.load("result")
