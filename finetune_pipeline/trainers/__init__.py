"""Where training happens: supervised child processes and the devices they hold."""
