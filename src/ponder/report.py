def write_report(directory, summary, config, vocabulary):
    pass
