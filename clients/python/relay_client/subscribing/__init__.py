"""What is behind `relay_client.subscribe`: decisions (subscriptions, reconnect), and the connection that carries them out."""
