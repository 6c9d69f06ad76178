"""The engine's failures, as Airflow wants them."""

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from extract_load import ExtractLoadError


def as_airflow(*errors: ExtractLoadError) -> AirflowException:
    """Returns the failure of a task: tried again where that may help with any of the errors."""
    kind = AirflowException if any(error.retryable for error in errors) else AirflowFailException
    return kind("\n".join(map(str, errors)))
