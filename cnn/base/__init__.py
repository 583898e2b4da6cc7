"""What every program here needs: errors, files, parameters, npz. Imports nothing of ours."""
