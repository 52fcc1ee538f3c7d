pytest_plugins = ["tests.labfixture"]
