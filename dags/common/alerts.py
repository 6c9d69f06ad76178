def alert_on_failure(context):
    pass
