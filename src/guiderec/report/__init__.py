"""Tables, figures and one HTML page, made from run directories alone: no model is loaded, torch is never imported."""
