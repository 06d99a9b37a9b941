"""A trained model behind a product: `service.py` answers, `feedback.py` remembers, `app.py` speaks HTTP."""
