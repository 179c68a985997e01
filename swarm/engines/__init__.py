"""Model servers: one package per engine, each fits the port ``ModelServer``."""
