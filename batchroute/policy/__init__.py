"""The policy: settings, scores and expected figures in, a route for each row out."""
