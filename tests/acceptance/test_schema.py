"""The OpenAPI document against a node that runs, judged by schemathesis; `make schema` is the long run of the same."""

from tests.support.schema_walk import walk


def test_no_request_that_the_document_allows_or_forbids_is_answered_against_it() -> None:
    status, said = walk(cases=8, seed=7, within_s=100)
    assert status == 0, said
    assert " passed" in said
